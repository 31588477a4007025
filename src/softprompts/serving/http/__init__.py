"""The HTTP interface: OpenAI's shapes, limits, metrics, a page."""

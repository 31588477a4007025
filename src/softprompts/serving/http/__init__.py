"""The HTTP interface: OpenAI's formats, limits, metrics and a web page."""

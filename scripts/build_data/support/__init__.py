"""Questions to the support of a bank: queue, priority and answer."""

"""Rows as token ids: chats, documents, targets and what ends them."""

"""Convert rows to token ids: chats, documents, targets and their end tokens."""

"""Check before training whether goal, data, test and baseline are good enough, and whether the data may be used."""

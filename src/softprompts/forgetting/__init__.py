"""Train a finished run again without given rows, and prove by fingerprints that they are gone."""

"""One script a claim: it compares side by side in one run, prints a table and writes results/<benchmark>/<kind>.json."""

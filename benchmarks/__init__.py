"""One script per claim: it compares contenders in one run, prints a table, writes results/<script>/<processor>.json."""

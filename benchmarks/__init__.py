"""One script a claim: contenders compete in one run, which prints and writes a table of ratios."""

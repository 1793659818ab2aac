"""Reviews: challenger and champion answer the same test rows, gates are checked, and a page shows the comparison."""

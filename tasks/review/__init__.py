"""Whether a challenger should be champion: both answer the same test rows, gates are checked, a page shows it."""

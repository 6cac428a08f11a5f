"""How fast and how small: everything measured side by side in one run, as ratios."""

"""From measured tables to coefficients: splits, fits, held-out errors."""

"""Plan, run and collect many training runs, by files alone."""

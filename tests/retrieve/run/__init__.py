"""Retrieved data sets from start to end."""

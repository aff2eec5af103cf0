"""What is trained: networks, auxiliary BN, averages, optimiser, one step."""

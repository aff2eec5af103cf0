"""Networks, auxiliary BN, the average of weights, engines, optimisers, one step."""

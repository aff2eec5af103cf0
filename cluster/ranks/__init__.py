"""Ranks, the processes of one training: their places, how they meet, how they start over Ray."""

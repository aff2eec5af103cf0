"""Ranks of one program: where each stands, how they meet, ranks over Ray."""

"""Multimodal recommenders that can unlearn users, items, interactions and modalities (MMRecUn)."""

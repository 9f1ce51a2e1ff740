"""Nested quantisation of experts (MWQ) and what chooses, keeps and loads their bits (D2MoE, arXiv 2504.15299)."""

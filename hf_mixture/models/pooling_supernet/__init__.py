"""Balanced Mixture of SuperNets: residual networks that pool wherever they are told, and a search for where."""

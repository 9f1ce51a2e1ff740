"""Changes of whole models: finer experts, fewer experts, merged experts, experts as a core and small residuals."""

"""The recipe of `hf-mixture upcycle`: a dense model, upcycled, trained on with several routers, and compared."""

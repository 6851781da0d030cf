"""Simulated pumps, a network that hears when one of their bearings fails, and the view of both that `penstock demo` gives."""

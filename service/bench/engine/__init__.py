"""The engine beside other ways to run the same networks on the same chunks."""

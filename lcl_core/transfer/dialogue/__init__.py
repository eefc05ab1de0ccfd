"""What a bridge learns to talk about, and the benchmarks that it is asked."""

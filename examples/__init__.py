"""Programs and documents to try LCL with."""

"""Everything that speaks to the Hub: client -> plan -> deliver -> arrival, and verify."""

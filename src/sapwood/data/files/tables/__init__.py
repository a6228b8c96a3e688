"""Tables: delimited text, Parquet and Arrow, Excel."""

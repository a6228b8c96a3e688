"""Where a method is put: linears, experts, embedding and head."""

"""What a formatting function makes of a row: a template, columns, labels."""

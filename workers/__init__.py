"""What runs beside a GPU or an API."""

"""What family and encoder of a guide cost, datum by datum."""

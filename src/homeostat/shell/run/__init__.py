"""A run: networks, treatments, controllers and the record around one optimizer step."""

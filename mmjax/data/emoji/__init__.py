"""The embedded data set: emoji concepts drawn by three vendors, captioned in many languages."""

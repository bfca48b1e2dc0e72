"""What a run learnt, for people: figures, tables and one HTML page that opens offline."""

"""How constrained JSON is laid out.

Owns: these options of llguidance's.
Does not know: schemas, nor what is compiled.

On one line, with or without a space after "," and ":". Where white space is free, a model can go
on with it for ever; and no schema may say for itself what of it is kept.
"""

JSON_LAYOUT = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "coerce_one_of": False,
    "lenient": False,
}

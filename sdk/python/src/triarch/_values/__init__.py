"""Values on the wire: codecs, JSON forms of types, documents of exceptions, and the reader of documents."""

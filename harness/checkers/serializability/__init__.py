"""A serializability checker of list-append transactions, after Adya and Elle."""

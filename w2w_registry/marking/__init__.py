"""Marks in pictures: a watermark in the pixels and signed C2PA metadata. Pictures and bytes only."""

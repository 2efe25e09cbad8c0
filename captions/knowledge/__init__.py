"""What is known about genes and compounds: one module a source, joined by identifiers."""

from captions.knowledge.join import Knowledge, load_knowledge
from captions.knowledge.reagents import describe_reagents

__all__ = ["Knowledge", "describe_reagents", "load_knowledge"]

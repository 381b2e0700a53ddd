"""Publication of a version: built, verified, judged by the gate, stored."""

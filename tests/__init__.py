"""Tests of edgeprune."""

"""Proof by audit: what was published against what the plain module says about what was offered."""

from service.audit.judge import AuditReport, judge

__all__ = ["AuditReport", "judge"]

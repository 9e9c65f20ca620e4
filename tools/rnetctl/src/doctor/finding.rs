// SPDX-License-Identifier: GPL-2.0
//! What a check has found.

use serde::Serialize;

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, and could be better.
    Advice,
    /// Does not work.
    Problem,
}

impl Verdict {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Advice => "advice",
            Self::Problem => "problem",
        }
    }
}

/// One row of the report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The check's name, which stays as it is.
    pub check: &'static str,
    /// What was looked at, if there may be several: a tap, or a guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How it went.
    pub verdict: Verdict,
    /// What was found, in one sentence.
    pub sentence: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, sentence: impl Into<String>) -> Self {
        Self {
            check,
            subject: None,
            verdict,
            sentence: sentence.into(),
            command: None,
        }
    }

    /// All is well.
    pub fn ok(check: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, sentence)
    }

    /// It could be better.
    pub fn advice(check: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(check, Verdict::Advice, sentence)
    }

    /// It does not work.
    pub fn problem(check: &'static str, sentence: impl Into<String>) -> Self {
        Self::new(check, Verdict::Problem, sentence)
    }

    /// The same, mended by `command`.
    #[must_use]
    pub fn mended_by(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// The same, about `subject`.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }
}

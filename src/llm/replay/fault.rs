//! The ways in which a scripted reply can go wrong.
//!
//! Each is one that a provider or the network between was seen to produce; the names are those of the script. A fault
//! belongs to one line of the script and strikes whenever that line is the answer, in either wire format. Several can strike
//! the same reply, as in `other-model+cut-mid-stream`, unless they contradict one another.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! faults {
    ($($(#[doc = $about:literal])+ $name:literal $fault:ident,)+) => {
        /// A way in which a reply goes wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fault {
            $($(#[doc = $about])+ $fault,)+
        }

        impl Fault {
            /// Every fault, for tests that go through all of them.
            pub const ALL: [Self; [$(Self::$fault),+].len()] = [$(Self::$fault),+];

            /// Its name in a script.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$fault => $name,)+ }
            }

            /// What happens, in one sentence.
            #[must_use]
            pub fn about(self) -> String {
                let lines: &[&str] = match self { $(Self::$fault => &[$($about),+],)+ };
                lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
            }
        }
    };
}

faults! {
    /// 400, the request is not valid.
    "status-400" Status400,
    /// 401, the key is wrong.
    "status-401" Status401,
    /// 402, the account has no credit.
    "status-402" Status402,
    /// 403, the key may not do this.
    "status-403" Status403,
    /// 404, there is no such model.
    "status-404" Status404,
    /// 413 with an HTML page, as a proxy in front of the provider sends it.
    "html-413" Html413,
    /// 429 rate limit, with `retry-after` in seconds when the line says how long.
    "status-429" Status429,
    /// 429 rate limit, with `retry-after` as an HTTP date.
    "status-429-date" Status429Date,
    /// 429 rate limit, with `retry-after-ms`.
    "status-429-ms" Status429Ms,
    /// 429 without `retry-after`: a spending cap or an empty account, which no waiting mends.
    "spend-cap-429" SpendCap429,
    /// 500 after the reply was generated, so it is billed.
    "status-500" Status500,
    /// 503 with an HTML page after the reply was generated, so it is billed.
    "html-503" Html503,
    /// 504 after the reply was generated, so it is billed.
    "status-504" Status504,
    /// 529 overloaded (429 in chat completions), with `retry-after` when the line says how long.
    "status-529" Status529,
    /// The reply is generated and billed, but not one byte of it is sent.
    "stall-before-headers" StallBeforeHeaders,
    /// The reply is billed at once and delivered only after the line's delay.
    "late-headers" LateHeaders,
    /// Nothing comes after half of the text; the connection stays open.
    "stall-mid-stream" StallMidStream,
    /// The connection is reset after half of the text, in the middle of a chunk.
    "cut-mid-stream" CutMidStream,
    /// A clean end of the stream, with everything but the terminal event.
    "eof-before-stop" EofBeforeStop,
    /// An error event after half of the text.
    "error-event" ErrorEvent,
    /// The stream arrives in pieces of a few bytes, so that characters are split over reads.
    "utf8-split" Utf8Split,
    /// Lines end with CR and LF.
    "crlf" Crlf,
    /// Data lines are padded with many spaces.
    "padded" Padded,
    /// Events and comments that nobody has heard of.
    "unknown-event" UnknownEvent,
    /// Usage is told several times, each time as the total so far.
    "several-usages" SeveralUsages,
    /// A complete reply that never says how many tokens it took.
    "no-usage" NoUsage,
    /// A complete reply that says it took no tokens, and is billed so.
    "zero-usage" ZeroUsage,
    /// A complete reply that took, and is billed, twice the output that was allowed.
    "usage-over-bound" UsageOverBound,
    /// A refusal before any text; usage is told, nothing is billed.
    "refusal-before" RefusalBefore,
    /// Half of the text, then a refusal.
    "refusal" Refusal,
    /// Thinking that uses up the cap, and no text.
    "thinking-only" ThinkingOnly,
    /// Half of the text, then the cap.
    "max-tokens" MaxTokens,
    /// A tool call whose JSON the cap cuts off; its block never ends.
    "tool-cut" ToolCut,
    /// No text at all, and the model says that it is done.
    "empty-end-turn" EmptyEndTurn,
    /// Another, dearer model answers, and is billed.
    "other-model" OtherModel,
    /// A model answers that nobody has a price for.
    "unknown-model" UnknownModel,
    /// The reply was made in the United States, which costs more there (Messages API).
    "us-region" UsRegion,
    /// The reply was made with priority, which costs more.
    "priority-tier" PriorityTier,
    /// The reply was made in a service tier that nobody has heard of.
    "unknown-tier" UnknownTier,
    /// The reply was made in the fast mode, which costs more (Messages API).
    "fast-mode" FastMode,
    /// Twenty web searches were made and are billed (Messages API).
    "web-searches" WebSearches,
    /// Another, dearer model made the reply in two parts, as the usage of each tells (Messages API).
    "iterations" Iterations,
    /// The usage of parts of the reply is told in a way that cannot be read (Messages API).
    "odd-iterations" OddIterations,
    /// A charge of $4.75 is stated, and billed (chat completions).
    "dear-cost" DearCost,
    /// The stated charge is no amount of money (chat completions).
    "odd-cost" OddCost,
    /// A byte sequence inside the text that is not UTF-8.
    "invalid-utf8" InvalidUtf8,
    /// Five megabytes of text, whatever was asked for.
    "huge" Huge,
}

impl Fault {
    /// True for answers that are nothing but a status.
    pub(super) const fn is_status(self) -> bool {
        self.is_free_status() || matches!(self, Self::Status500 | Self::Html503 | Self::Status504)
    }

    const fn is_free_status(self) -> bool {
        matches!(
            self,
            Self::Status400
                | Self::Status401
                | Self::Status402
                | Self::Status403
                | Self::Status404
                | Self::Html413
                | Self::Status429
                | Self::Status429Date
                | Self::Status429Ms
                | Self::SpendCap429
                | Self::Status529
        )
    }

    /// Whether a call that ends so is on the bill. Only what a provider refuses before it generates is free; what it
    /// might bill, this server does bill, so that a client that trusts its luck is found out.
    #[must_use]
    pub const fn is_billed(self) -> bool {
        !self.is_free_status() && !matches!(self, Self::RefusalBefore)
    }

    /// Whether a stream with it is told bit by bit over its time, as one without a fault is.
    pub(super) const fn is_told(self) -> bool {
        !self.is_status() && !matches!(self, Self::StallBeforeHeaders | Self::LateHeaders)
    }

    /// Whether a line with this fault needs no text of its own.
    pub(super) const fn needs_no_text(self) -> bool {
        self.is_status()
            || matches!(
                self,
                Self::StallBeforeHeaders
                    | Self::RefusalBefore
                    | Self::ThinkingOnly
                    | Self::EmptyEndTurn
                    | Self::ToolCut
                    | Self::Huge
            )
    }

    /// Whether `retry-after` can go with it.
    pub(super) const fn takes_retry_after(self) -> bool {
        matches!(
            self,
            Self::Status429
                | Self::Status429Date
                | Self::Status429Ms
                | Self::Status500
                | Self::Html503
                | Self::Status529
        )
    }
}

/// Faults that decide what is in a reply.
pub(super) const SHAPES: [Fault; 8] = [
    Fault::Huge,
    Fault::ThinkingOnly,
    Fault::ToolCut,
    Fault::EmptyEndTurn,
    Fault::MaxTokens,
    Fault::Refusal,
    Fault::RefusalBefore,
    Fault::UsageOverBound,
];

/// Faults of which at most one can strike a reply: how it ends, what is in it, what is counted, when it begins, who made it.
const EXCLUSIVE: [&[Fault]; 8] = [
    &[Fault::StallMidStream, Fault::CutMidStream, Fault::EofBeforeStop, Fault::ErrorEvent],
    &SHAPES,
    &[Fault::NoUsage, Fault::ZeroUsage],
    &[Fault::StallBeforeHeaders, Fault::LateHeaders],
    &[Fault::OtherModel, Fault::UnknownModel],
    &[Fault::Iterations, Fault::OddIterations],
    &[Fault::DearCost, Fault::OddCost],
    &[Fault::PriorityTier, Fault::UnknownTier],
];

/// The faults of one reply; none as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults(u64);

impl Faults {
    /// These and one more.
    #[must_use]
    pub const fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u64)
    }

    /// Whether this one is among them.
    #[must_use]
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & 1 << fault as u64 != 0
    }

    /// True when nothing goes wrong.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All of them, in the order of [`Fault::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |fault| self.has(*fault))
    }

    /// The one that is nothing but a status.
    pub(super) fn status(self) -> Option<Fault> {
        self.iter().find(|fault| fault.is_status())
    }

    /// The one of these that is among them.
    pub(super) fn among(self, faults: &[Fault]) -> Option<Fault> {
        faults.iter().copied().find(|fault| self.has(*fault))
    }

    /// Whether a call that ends so is on the bill.
    #[must_use]
    pub fn is_billed(self) -> bool {
        self.iter().all(Fault::is_billed)
    }

    /// Two of them that cannot strike the same reply.
    fn contradiction(self) -> Option<(Fault, Fault)> {
        let other = |fault: Fault| self.iter().find(|other| *other != fault);
        if let Some(status) = self.status() {
            return Some((status, other(status)?));
        }
        EXCLUSIVE.iter().find_map(|group| {
            let mut struck = group.iter().copied().filter(|fault| self.has(*fault));
            struck.next().zip(struck.next())
        })
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self::default().with(fault)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().map(Fault::name).collect::<Vec<_>>().join("+"))
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(fault) = Self::ALL.into_iter().find(|fault| fault.name() == name) {
            return Ok(fault);
        }
        let likeness = |fault: &Self| strsim::normalized_damerau_levenshtein(fault.name(), name);
        let nearest = Self::ALL.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let hint = nearest.map_or_else(String::new, |nearest| format!("; the nearest is {}", nearest.name()));
        let name: String = name.chars().take(40).collect();
        Err(format!("no fault is called {name:?}{hint}; `fake-claude --faults` lists them"))
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(names: &str) -> Result<Self, String> {
        let faults =
            names.split('+').try_fold(Self::default(), |faults, name| Ok::<_, String>(faults.with(name.parse()?)))?;
        match faults.contradiction() {
            Some((one, other)) => Err(format!("{} and {} cannot strike the same reply", one.name(), other.name())),
            None => Ok(faults),
        }
    }
}

impl Serialize for Faults {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Faults {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_combined_unless_they_contradict_one_another() {
        let both: Faults = "other-model+cut-mid-stream".parse().expect("combine");
        assert_eq!(both, Faults::from(Fault::CutMidStream).with(Fault::OtherModel));
        assert_eq!(both.to_string().parse(), Ok(both));
        assert!(both.is_billed() && !both.has(Fault::Crlf));
        for (names, part) in [
            ("status-429+other-model", "status-429 and other-model"),
            ("cut-mid-stream+stall-mid-stream", "stall-mid-stream and cut-mid-stream"),
            ("no-usage+zero-usage", "cannot strike the same reply"),
            ("other-model+", "no fault is called \"\""),
            ("cut-mid-steam", "the nearest is cut-mid-stream; `fake-claude --faults` lists them"),
        ] {
            let error = names.parse::<Faults>().expect_err(names);
            assert!(error.contains(part) && error.lines().count() == 1, "{names}: {error}");
        }
    }
}

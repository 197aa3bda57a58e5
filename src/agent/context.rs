//! What a task may read, and fitting it into the room there is.
//!
//! Order of sacrifice: signatures of indirect dependencies go first, then the ends of the longest direct dependencies; the
//! task itself is never cut. Whatever is left out is named, because a model that believes it has seen a whole file invents
//! the rest of it. This file must never let text out of its fence.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::role::AgentChoice;
use super::signature::signatures;
use super::template::{cut, fence};
use crate::protocol::StrategicPlan;

/// Bounds of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextLimits {
    /// Most bytes of system prompt and user message together.
    pub max_bytes: usize,
    /// Most bytes of one file in a reply.
    pub max_file_bytes: usize,
}

impl Default for ContextLimits {
    /// 400 KB, about 100,000 tokens of source text, which every priced model can read; files up to 1 MiB.
    fn default() -> Self {
        Self { max_bytes: 400_000, max_file_bytes: 1 << 20 }
    }
}

/// A finished file a task may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextText {
    /// Relative path.
    pub path: String,
    /// Its contents.
    pub bytes: Bytes,
}

/// Everything a request is made of besides the role and the message, loaded from the artifact store.
#[derive(Debug, Clone, Default)]
pub struct TaskContext {
    /// The proposal's text.
    pub proposal: Arc<str>,
    /// The strategic plan; absent only while it is being made.
    pub plan: Option<Arc<StrategicPlan>>,
    /// [`super::contract_head`] of the plan when the caller keeps it; computed otherwise.
    pub head: Option<Arc<str>>,
    /// The agent types a feature plan may choose from ([`super::RoleBook::choices`]).
    pub agents: Arc<[AgentChoice]>,
    /// Direct dependencies, given in full.
    pub dependencies: Vec<ContextText>,
    /// Indirect dependencies, given as signatures while there is room.
    pub interfaces: Vec<ContextText>,
}

/// The two sections of a file task's prompt that give way when room is short.
pub(super) struct Packed {
    pub(super) dependencies: String,
    pub(super) interfaces: String,
}

/// Most bytes of the remark that names the interfaces for which there was no room.
const OMISSION_NOTE: usize = 600;

/// Upper bound of what a fence and a marker add to a file's own bytes.
fn overhead(id: &str, path: &str) -> usize {
    2 * id.len() + 2 * path.len() + 120
}

/// Packs the context's files into at most `room` bytes.
pub(super) fn pack(context: &TaskContext, id: &str, room: usize) -> Packed {
    // Saying what was left out needs room as well.
    let note = if context.interfaces.is_empty() { 0 } else { OMISSION_NOTE };
    let dependencies = pack_dependencies(&context.dependencies, id, room.saturating_sub(note));
    let interfaces = pack_interfaces(&context.interfaces, id, room.saturating_sub(dependencies.len()));
    Packed { dependencies, interfaces }
}

fn pack_dependencies(files: &[ContextText], id: &str, room: usize) -> String {
    if files.is_empty() {
        return "None.\n".into();
    }
    let fixed: usize = files.iter().map(|file| overhead(id, &file.path)).sum();
    let share = fair_share(files.iter().map(|file| file.bytes.len()), room.saturating_sub(fixed));
    files.iter().fold(String::new(), |mut out, file| {
        out.push_str(&full_text(file, id, share));
        out
    })
}

/// The largest size such that cutting everything longer to it fits into `room`; short texts leave their share to long ones.
fn fair_share(sizes: impl Iterator<Item = usize>, room: usize) -> usize {
    let mut sizes: Vec<usize> = sizes.collect();
    sizes.sort_unstable();
    let mut left = room;
    let count = sizes.len();
    for (index, size) in sizes.into_iter().enumerate() {
        let share = left / (count - index);
        if size > share {
            return share;
        }
        left -= size;
    }
    usize::MAX
}

fn full_text(file: &ContextText, id: &str, share: usize) -> String {
    let text = String::from_utf8_lossy(&file.bytes);
    if text.contains('\0') {
        return format!("[{}: {} bytes that are not text, left out]\n", file.path, file.bytes.len());
    }
    // Lossy decoding may have lengthened the text, so the cut is decided on the text itself.
    let Some(end) = cut_at_line(&text, share) else {
        return fence(id, &file.path, &text);
    };
    let mut out = fence(id, &file.path, &text[..end]);
    let _ = writeln!(out, "[{}: the last {} bytes are left out, the context is full]", file.path, text.len() - end);
    out
}

/// Where to cut `text` so that at most `room` bytes remain, after a whole line if possible; `None` when it fits.
fn cut_at_line(text: &str, room: usize) -> Option<usize> {
    if text.len() <= room {
        return None;
    }
    let start = cut(text, room);
    Some(start.rfind('\n').map_or(start.len(), |newline| newline + 1))
}

fn pack_interfaces(files: &[ContextText], id: &str, room: usize) -> String {
    let mut out = String::new();
    let mut omitted = Vec::new();
    for file in files {
        let fenced = fence(id, &file.path, &signatures(&file.path, &String::from_utf8_lossy(&file.bytes)));
        if out.len() + fenced.len() + OMISSION_NOTE <= room {
            out.push_str(&fenced);
        } else {
            omitted.push(file.path.as_str());
        }
    }
    if !omitted.is_empty() {
        // Even the names may be many; what matters is that the model knows that it has not seen everything.
        let names = omitted.join(", ");
        let names = cut(&names, OMISSION_NOTE - 70);
        let _ = writeln!(out, "[left out, the context is full: {} files: {names}]", omitted.len());
    }
    if out.is_empty() { "None.\n".into() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> ContextText {
        ContextText { path: path.into(), bytes: Bytes::copy_from_slice(text.as_bytes()) }
    }

    #[test]
    fn what_fits_is_given_whole_and_what_does_not_is_cut_and_named() {
        let context = TaskContext {
            dependencies: vec![file("small.py", "x = 1\n"), file("big.py", &"y = 2\n".repeat(1000))],
            interfaces: vec![file("far.py", &"def far(a):\n    return a\n".repeat(100))],
            ..TaskContext::default()
        };
        let all = pack(&context, "k1", 100_000);
        assert!(all.dependencies.contains(&"y = 2\n".repeat(1000)));
        assert!(all.interfaces.contains("def far(a):") && !all.interfaces.contains("return a"));

        let tight = pack(&context, "k1", 2_000);
        assert!(tight.dependencies.len() + tight.interfaces.len() <= 2_000, "{}", tight.dependencies.len());
        assert!(tight.dependencies.contains("x = 1\n</data-k1>"), "short files stay whole");
        assert!(tight.dependencies.contains("[big.py: the last "));
        assert!(tight.interfaces.contains("[left out, the context is full: 1 files: far.py]"));
    }

    #[test]
    fn fair_share_gives_what_short_texts_leave() {
        assert_eq!(fair_share([10, 10].into_iter(), 20), usize::MAX);
        assert_eq!(fair_share([2, 100].into_iter(), 20), 18);
        assert_eq!(fair_share([50, 50].into_iter(), 20), 10);
        assert_eq!(fair_share([5].into_iter(), 0), 0);
    }

    #[test]
    fn bytes_that_are_not_text_are_named_not_shown() {
        let packed = pack_dependencies(&[file("a.bin", "\0\0")], "k", 1000);
        assert_eq!(packed, "[a.bin: 2 bytes that are not text, left out]\n");
        assert!(cut_at_line("äää", 3) == Some(2));
    }
}

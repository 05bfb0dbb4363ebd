//! How a text's tokens are cut into windows, and which of them are scored.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use crate::model::EvalError;

/// A way to measure perplexity. Figures of different protocols, windows or tokenizers cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Protocol {
    /// Windows side by side, each token but a window's first scored: how the GPTQ literature reports WikiText-2. A last
    /// window that is not full is left out. The text is encoded as the tokenizer does by default, so that a token of
    /// beginning stands before the text at most, not before each window.
    NonOverlapping {
        /// Tokens of a window, at least 2.
        window: usize,
    },
    /// llama.cpp's `perplexity`: windows side by side, the second half of each scored, the first token of each replaced by
    /// the token of beginning where the tokenizer adds one.
    LlamaCpp {
        /// Tokens of a window, at least 4.
        window: usize,
    },
    /// Windows that overlap: each begins `stride` tokens after the one before and scores what that one has not: each token
    /// but the text's first is scored once, with at least `window - stride` tokens before it (but for the first window).
    /// The last window may be short.
    Strided {
        /// Tokens of a window, at least 2.
        window: usize,
        /// Tokens between the beginnings of two windows, from 1 to below `window`: a token is predicted from the one before it.
        stride: usize,
    },
}

/// A piece of the text that is fed as one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its tokens, as a range of the text's.
    pub tokens: Range<usize>,
    /// The first position within the window whose *next* token is scored. The last one is the last but one of the window.
    pub from: usize,
    /// Whether the first token is replaced by the token of beginning.
    pub begins: bool,
}

impl Window {
    /// Number of scored tokens.
    pub fn scored(&self) -> usize {
        (self.tokens.len() - 1).saturating_sub(self.from)
    }
}

/// All windows of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// In the text's order.
    pub windows: Vec<Window>,
    /// Tokens at the end that no window has.
    pub left_out: usize,
}

impl Protocol {
    /// Tokens of a full window.
    pub fn window(self) -> usize {
        match self {
            Protocol::NonOverlapping { window } | Protocol::LlamaCpp { window } | Protocol::Strided { window, .. } => {
                window
            }
        }
    }

    /// Cuts a text of `tokens` tokens, at most `limit` windows if given.
    ///
    /// # Errors
    /// [`EvalError::Protocol`] for a window that is too small, [`EvalError::TooShort`] for a text shorter than a window
    /// (llama.cpp's protocol needs two).
    pub fn cut(self, tokens: usize, limit: Option<usize>) -> Result<Windows, EvalError> {
        let (least, needed) = match self {
            Protocol::NonOverlapping { window } => (2, window),
            Protocol::LlamaCpp { window } => (4, window.saturating_mul(2)),
            Protocol::Strided { .. } => (2, 2),
        };
        let window = self.window();
        if window < least {
            let reason = format!("a window of {window} tokens; it needs at least {least}");
            return Err(EvalError::Protocol { reason });
        }
        if tokens < needed {
            return Err(EvalError::TooShort { found: tokens, needed, protocol: self });
        }
        let most = limit.unwrap_or(usize::MAX);
        let side_by_side = |from: usize, begins: bool| {
            (0..tokens / window).map(move |i| Window { tokens: i * window..(i + 1) * window, from, begins })
        };
        let windows: Vec<Window> = match self {
            Protocol::NonOverlapping { .. } => side_by_side(0, false).take(most).collect(),
            Protocol::LlamaCpp { .. } => side_by_side(window / 2, true).take(most).collect(),
            Protocol::Strided { stride, .. } => {
                if !(1..window).contains(&stride) {
                    let reason =
                        format!("a stride of {stride} tokens; it must be at least 1 and below the window's {window}");
                    return Err(EvalError::Protocol { reason });
                }
                let mut windows = Vec::new();
                let (mut start, mut scored_to) = (0usize, 1usize);
                while scored_to < tokens && windows.len() < most {
                    let end = (start + window).min(tokens);
                    // Token `scored_to` is predicted at position `scored_to - 1`.
                    windows.push(Window { tokens: start..end, from: scored_to - 1 - start, begins: false });
                    scored_to = end;
                    start += stride;
                }
                windows.retain(|w| w.scored() > 0);
                windows
            }
        };
        let covered = windows.last().map_or(0, |w| w.tokens.end);
        Ok(Windows { windows, left_out: tokens - covered })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::NonOverlapping { window } => {
                write!(f, "windows of {window} side by side, all but the first token scored")
            }
            Protocol::LlamaCpp { window } => write!(f, "llama.cpp's: windows of {window}, the second half scored"),
            Protocol::Strided { window, stride } => {
                write!(f, "windows of {window} every {stride} tokens, each token scored once")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_side_by_side_score_all_but_their_first_token() {
        let w = Protocol::NonOverlapping { window: 4 }.cut(11, None).unwrap();
        assert_eq!(w.windows.iter().map(|w| w.tokens.clone()).collect::<Vec<_>>(), [0..4, 4..8]);
        assert_eq!((w.left_out, w.windows[1].scored(), w.windows[1].from), (3, 3, 0));
        assert_eq!(Protocol::NonOverlapping { window: 4 }.cut(100, Some(2)).unwrap().windows.len(), 2);
    }

    #[test]
    fn llama_cpp_scores_the_second_half() {
        // 512 tokens: positions 256..=510 predict 257..=511, 255 tokens a window.
        let w = Protocol::LlamaCpp { window: 512 }.cut(2000, None).unwrap();
        assert_eq!((w.windows.len(), w.windows[0].scored(), w.windows[0].begins), (3, 255, true));
        assert!(matches!(
            Protocol::LlamaCpp { window: 512 }.cut(1000, None),
            Err(EvalError::TooShort { needed: 1024, .. })
        ));
    }

    #[test]
    fn strided_windows_score_each_token_once() {
        for (tokens, window, stride) in [(50, 8, 3), (50, 8, 7), (9, 8, 7), (5, 8, 2), (2, 2, 1), (33, 16, 1)] {
            let w = Protocol::Strided { window, stride }.cut(tokens, None).unwrap();
            let mut scored = Vec::new();
            for w in &w.windows {
                scored.extend((w.from..w.tokens.len() - 1).map(|p| w.tokens.start + p + 1));
            }
            assert_eq!(scored, (1..tokens).collect::<Vec<_>>(), "{tokens} {window} {stride}");
            assert_eq!(w.left_out, 0);
        }
        assert!(Protocol::Strided { window: 4, stride: 4 }.cut(50, None).is_err());
        assert!(Protocol::NonOverlapping { window: 1 }.cut(50, None).is_err());
    }
}

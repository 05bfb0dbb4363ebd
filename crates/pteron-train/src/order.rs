//! In which order windows are read.

/// The order of windows: each once an epoch, shuffled by a seed and the epoch's number. It has no state, so that a run that is
/// resumed reads on where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    windows: usize,
}

impl Order {
    /// An order of `windows` windows, of which there must be one.
    pub fn new(seed: u64, windows: usize) -> Order {
        Order { seed, windows: windows.max(1) }
    }

    /// The window that is read as number `n`, from 0.
    pub fn at(&self, n: u64) -> usize {
        let windows = self.windows as u64;
        let (epoch, place) = (n / windows, (n % windows) as usize);
        let mut state = self.seed ^ epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut order: Vec<usize> = (0..self.windows).collect();
        for i in (1..self.windows).rev() {
            order.swap(i, (splitmix(&mut state) % (i as u64 + 1)) as usize);
        }
        order[place]
    }
}

/// Steele, Lea and Flood's SplitMix64.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_is_read_once_an_epoch() {
        let order = Order::new(3, 17);
        let epoch = |e: u64| (0..17).map(|i| order.at(e * 17 + i)).collect::<Vec<_>>();
        let sorted = |mut v: Vec<usize>| {
            v.sort_unstable();
            v
        };
        assert_eq!(sorted(epoch(0)), (0..17).collect::<Vec<_>>());
        assert_eq!(sorted(epoch(1)), (0..17).collect::<Vec<_>>());
        assert_ne!(epoch(0), epoch(1));
        assert_ne!(epoch(0), (0..17).map(|i| Order::new(4, 17).at(i)).collect::<Vec<_>>());
    }
}

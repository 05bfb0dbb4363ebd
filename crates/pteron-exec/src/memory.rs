//! Reading some parts of an arena while others are written, without `unsafe`.

use std::ops::Range;

use smallvec::SmallVec;

/// An arena cut into the ranges that are written and what is left between them.
#[derive(Debug)]
pub(crate) struct Carved<'a> {
    /// The written ranges, in the order asked for.
    pub(crate) written: SmallVec<[Option<&'a mut [u8]>; 4]>,
    /// What is left: start offset and bytes, by offset.
    rest: SmallVec<[(usize, &'a [u8]); 6]>,
}

impl<'a> Carved<'a> {
    /// Cuts `ranges` (disjoint, any order) out of `arena`. `None` if two overlap or one lies outside.
    pub(crate) fn new(arena: &'a mut [u8], ranges: &[Range<usize>]) -> Option<Carved<'a>> {
        let mut order: SmallVec<[usize; 4]> = (0..ranges.len()).collect();
        order.sort_by_key(|&i| (ranges[i].start, ranges[i].end));
        let mut written: SmallVec<[Option<&'a mut [u8]>; 4]> = ranges.iter().map(|_| None).collect();
        let mut rest = SmallVec::new();
        let (mut at, mut tail) = (0usize, arena);
        for i in order {
            let r = &ranges[i];
            if r.is_empty() {
                written[i] = Some(&mut []);
                continue;
            }
            let gap = r.start.checked_sub(at)?;
            let (before, from) = tail.split_at_mut_checked(gap)?;
            let (cut, after) = from.split_at_mut_checked(r.len())?;
            if !before.is_empty() {
                rest.push((at, &*before));
            }
            written[i] = Some(cut);
            at = r.end;
            tail = after;
        }
        rest.push((at, &*tail));
        Some(Carved { written, rest })
    }

    /// Bytes that are not written; `None` if any of them is.
    pub(crate) fn read(&self, range: Range<usize>) -> Option<&'a [u8]> {
        if range.is_empty() {
            return Some(&[]);
        }
        let i = self.rest.partition_point(|(start, _)| *start <= range.start).checked_sub(1)?;
        let (start, bytes) = self.rest[i];
        bytes.get(range.start - start..range.end - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_and_overlaps_refused() {
        let mut arena: Vec<u8> = (0..100).collect();
        let mut c = Carved::new(&mut arena, &[50..60, 10..20, 30..30]).unwrap();
        assert_eq!(c.read(0..10).unwrap()[9], 9);
        assert_eq!(c.read(20..50).unwrap().len(), 30);
        assert_eq!(c.read(60..100).unwrap()[0], 60);
        assert!(c.read(5..15).is_none());
        assert!(c.read(50..51).is_none());
        assert!(c.read(90..101).is_none());
        assert_eq!(c.written[1].as_mut().unwrap()[0], 10);
        drop(c);
        assert!(Carved::new(&mut arena, &[0..10, 5..20]).is_none());
        let outside = 90..101;
        assert!(Carved::new(&mut arena, std::slice::from_ref(&outside)).is_none());
    }
}

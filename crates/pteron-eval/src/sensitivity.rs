//! Which layers to leave in float: what quantizing each costs against what it saves.

use serde::Serialize;

use crate::stats::Estimate;

/// What quantizing one layer alone costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerCost {
    /// Its module path.
    pub path: String,
    /// Mean KL divergence from the float model in nats.
    pub kl: Estimate,
    /// Bytes of constants that it saves; negative where a weight is needed in float all the same.
    pub bytes_saved: i64,
}

impl LayerCost {
    /// Divergence that keeping the layer float takes away, for each byte that it takes: layers that save nothing come first.
    fn per_byte(&self) -> f64 {
        if self.bytes_saved <= 0 { f64::INFINITY } else { self.kl.mean / self.bytes_saved as f64 }
    }
}

/// The dearest layers first.
pub fn rank(layers: &mut [LayerCost]) {
    layers.sort_by(|a, b| b.kl.mean.total_cmp(&a.kl.mean).then_with(|| a.path.cmp(&b.path)));
}

/// The order in which layers are best left float: those first that spare the most divergence for their bytes.
pub fn keep_order(layers: &[LayerCost]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..layers.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&layers[a], &layers[b]);
        let dear = b.kl.mean.total_cmp(&a.kl.mean).then_with(|| a.path.cmp(&b.path));
        b.per_byte().total_cmp(&a.per_byte()).then(dear)
    });
    order
}

/// The layers that can be left float so that the model takes at most `target` bytes, where it takes `smallest` with all of them
/// quantized: in the order of [`keep_order`], each that still fits. `None` if `smallest` is too much already.
pub fn keep_within(layers: &[LayerCost], smallest: u64, target: u64) -> Option<Vec<usize>> {
    let mut room = target.checked_sub(smallest)?;
    let mut kept = Vec::new();
    for i in keep_order(layers) {
        let needed = u64::try_from(layers[i].bytes_saved).unwrap_or(0);
        if let Some(left) = room.checked_sub(needed) {
            room = left;
            kept.push(i);
        }
    }
    Some(kept)
}

/// The fewest layers, in the order of [`keep_order`], with which `measure` gives at most `most`: `measure` is called with the
/// layers that are kept float, some `log₂` of their number times. `None` if even all of them are not enough.
///
/// # Errors
/// What `measure` fails with.
pub fn keep_until<E>(
    layers: &[LayerCost],
    most: f64,
    mut measure: impl FnMut(&[usize]) -> Result<f64, E>,
) -> Result<Option<Vec<usize>>, E> {
    let order = keep_order(layers);
    if measure(&[])? <= most {
        return Ok(Some(Vec::new()));
    }
    // With all of them float, nothing is quantized: nothing to measure.
    let (mut few, mut many) = (0, order.len());
    while many - few > 1 {
        let middle = few.midpoint(many);
        if measure(&order[..middle])? <= most {
            many = middle;
        } else {
            few = middle;
        }
    }
    Ok((many < order.len()).then(|| order[..many].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(path: &str, kl: f64, bytes_saved: i64) -> LayerCost {
        LayerCost { path: path.to_owned(), kl: Estimate { mean: kl, stderr: 0.0 }, bytes_saved }
    }

    fn layers() -> Vec<LayerCost> {
        vec![layer("a", 0.1, 100), layer("b", 0.4, 1000), layer("c", 0.3, 50), layer("d", 0.2, -5), layer("e", 0.0, 10)]
    }

    #[test]
    fn layers_are_ranked_by_cost_and_kept_by_cost_a_byte() {
        let mut l = layers();
        assert_eq!(keep_order(&l), [3, 2, 0, 1, 4]);
        rank(&mut l);
        assert_eq!(l.iter().map(|l| l.path.as_str()).collect::<String>(), "bcdae");
    }

    #[test]
    fn a_size_is_filled_with_what_spares_most() {
        let l = layers();
        assert_eq!(keep_within(&l, 1000, 1150), Some(vec![3, 2, 0]));
        assert_eq!(keep_within(&l, 1000, 1155), Some(vec![3, 2, 0]));
        assert_eq!(keep_within(&l, 1000, 1060), Some(vec![3, 2, 4]));
        assert_eq!(keep_within(&l, 1000, 999), None);
    }

    #[test]
    fn a_divergence_is_met_with_the_fewest_layers() {
        let l = layers();
        let mut asked = 0;
        let mut sum = |kept: &[usize]| {
            asked += 1;
            Ok::<f64, ()>((0..l.len()).filter(|i| !kept.contains(i)).map(|i| l[i].kl.mean).sum())
        };
        assert_eq!(keep_until(&l, 2.0, &mut sum), Ok(Some(vec![])));
        assert_eq!(keep_until(&l, 0.55, &mut sum), Ok(Some(vec![3, 2])));
        assert_eq!(keep_until(&l, 0.45, &mut sum), Ok(Some(vec![3, 2, 0])));
        assert_eq!(keep_until(&l, -1.0, &mut sum), Ok(None));
        assert!(asked < 16, "{asked}");
    }
}

; test: verify
module "t" {
  metadata forward = [1]
  metadata get_n_layers = [1]
  metadata get_n_layers = [2]
  ; error: names: the name `get_n_layers` is taken by another metadata
  graph forward() {
  ; error: names: the name `forward` is taken by another metadata
    return
  }
  graph "" () {
  ; error: names: a graph without a name
    return
  }
}

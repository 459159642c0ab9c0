// What js-libp2p 3 takes for granted and Node 20 lacks (ECMAScript 2024). Imported before it; no more than that.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((...both) => { [resolve, reject] = both })
  return { promise, resolve, reject }
}

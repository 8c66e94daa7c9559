// A reproducible source of choices.

export class Random {
  constructor(seed) {
    this.state = (Math.imul(seed, 2654435761) ^ 0x9e3779b9) >>> 0;
    for (let i = 0; i < 4; i++) this.next();
  }

  // Between 0 and 1 (mulberry32)
  next() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  // 0 .. n - 1
  int(n) {
    return Math.floor(this.next() * n);
  }

  between(low, high) {
    return low + this.int(high - low + 1);
  }

  chance(probability) {
    return this.next() < probability;
  }

  pick(list) {
    return list[this.int(list.length)];
  }

  // n different ones, in random order
  some(list, n) {
    const rest = [...list];
    const chosen = [];
    while (chosen.length < n && rest.length > 0) chosen.push(...rest.splice(this.int(rest.length), 1));
    return chosen;
  }

  // One of [[weight, value], ...]
  weighted(choices) {
    let at = this.next() * choices.reduce((sum, [weight]) => sum + weight, 0);
    for (const [weight, value] of choices) {
      at -= weight;
      if (at < 0) return value;
    }
    return choices.at(-1)[1];
  }
}

/** The part of opossum that is compared with: it comes without types. */
declare module "opossum" {
  export default class CircuitBreaker<A> {
    constructor(
      action: () => Promise<A>,
      options: {
        readonly timeout: number | false
        readonly errorThresholdPercentage?: number
        readonly volumeThreshold?: number
        readonly resetTimeout?: number
        readonly capacity?: number
        readonly rollingPercentilesEnabled?: boolean
      }
    )
    fire(): Promise<A>
    open(): void
  }
}
